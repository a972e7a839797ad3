//! The detector: a picture in, detections out, on either backend.
