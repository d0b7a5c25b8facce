"""What the pytest plugin does once a test asks for it: runs and calls, beside whatever loop the test itself is on."""
