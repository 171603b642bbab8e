"""What GOOD and BAD say of a text, token by token."""
