"""invsolve"""
