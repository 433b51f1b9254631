"""One module for each thing of the system that is changed. Each driver is the only place that knows its binding."""
