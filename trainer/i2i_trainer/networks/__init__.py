"""Generators and discriminators as their papers define them, with the published key layouts."""
