"""Mutation proof: small faults in the models' SQL, one at a time, and the share of them that the tests notice."""
