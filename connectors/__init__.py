"""Every system outside this process, one file each."""
