"""The endpoints, one file a protocol or concern; this file itself holds nothing."""
