"""Kernels for CPUs in portable C++, and their build. The op folders' `cpu.py` bind them."""
