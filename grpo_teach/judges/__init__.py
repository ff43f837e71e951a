"""Who judges in a study: rules that err, judges that were learned, and which of them pays a run."""
