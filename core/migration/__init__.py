"""Moving an application from one store to the other, and back."""
