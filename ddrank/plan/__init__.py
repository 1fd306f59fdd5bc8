"""The plan before the work: what an evaluation would find, train and make, and what that would cost here."""
