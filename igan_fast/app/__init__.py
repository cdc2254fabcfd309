"""The application: the command line ``igan-fast``, and the evaluation of a trained model."""
