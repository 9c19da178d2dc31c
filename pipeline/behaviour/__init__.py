"""Small behaviour policies that ship with the package, and the script that trained them."""
