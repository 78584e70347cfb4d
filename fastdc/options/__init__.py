"""What a user gives as text and numbers: `name:key=value` and its checks."""
