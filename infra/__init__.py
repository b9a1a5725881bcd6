"""What aSV runs on: SQL, container files, engine configuration, the guest image's recipe."""
