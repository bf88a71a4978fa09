//! nonblock
