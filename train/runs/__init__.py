"""The folder of a run: what is kept, told and handed on."""
