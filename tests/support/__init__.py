"""What tests of several rooms share: real servers, and the whole stack as processes."""
