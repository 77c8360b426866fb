"""Still pictures and animations: read as upright sRGB, whatever their kind and colours, and written."""
