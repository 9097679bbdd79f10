"""The wire formats: decode bodies into payments and requirements, encode outcomes. No other room
knows the names of JSON members or the words of errors.
"""
