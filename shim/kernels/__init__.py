"""The adapters' own products: many adapters in one layer call for about the price of one."""
