//! What a kubelet would ask.
