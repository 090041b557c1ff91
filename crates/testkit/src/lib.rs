//! Tests only: the fixtures with their golden outputs, comparison with tolerance, random checkpoints.
