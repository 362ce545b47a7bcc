"""Where a detector looks: heat-maps of its verdict, drawn over what it was given, and how much of them lies at the border."""
