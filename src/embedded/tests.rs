//! Faults against a real database: see below.
