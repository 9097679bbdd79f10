"""One file a way of moving money: what is signed, which calls move it, which log proves it.

All of it pure: a scheme says *what* to ask a chain and reads the answer; `chain` does the asking.
"""
