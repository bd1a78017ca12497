"""Projects of annotation tools, read through the tools' own interfaces."""
