//! How wrong a decoder layer's queries are, and the gradient of that.
