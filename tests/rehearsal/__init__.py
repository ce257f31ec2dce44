"""The server on the real CUDA and NPU builds of torch, over libraries that pretend devices."""
