"""The paper's figures and tables (Sec. 4.2 and 5), with the methods that it compares."""
