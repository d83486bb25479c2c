"""The subcommands of `jaxengine`, one file each."""
