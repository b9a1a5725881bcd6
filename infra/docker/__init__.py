"""The same cluster in containers: jobs that run once, and what an image needs beside the code."""
