"""The losses, and the two ways to balance the teacher."""
