"""Compiled kernels for the CPU, written for numba, and the runtime that compiles and runs them."""
