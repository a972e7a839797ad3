//! Which query answers for which target.
