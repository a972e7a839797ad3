//! Labelled pictures as a training step wants them.
