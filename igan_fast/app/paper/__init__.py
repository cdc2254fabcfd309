"""The paper's experiments: ``igan-fast paper`` trains all methods and writes the figures and tables (Sec. 4.2, 5)."""
