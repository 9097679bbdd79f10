"""The wire formats: bytes into payments and quotes, outcomes into bytes. Nothing else knows member
names or error words.
"""
