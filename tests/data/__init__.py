"""What earlier versions wrote, and how it was made."""
