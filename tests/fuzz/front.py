"""`python -m tests.fuzz.front JSON`: the product's front, for one stranger who comes very often.

Schemathesis tries each address without a key, too, hundreds of times a minute; it is all of the
strangers of the world at once, so that it is not held to what one of them may do.
"""

from http_front import __main__ as front
from http_front.access import key_guard

if __name__ == "__main__":
    key_guard.UNAUTHORIZED_PER_MINUTE = 10**9
    front.main()
