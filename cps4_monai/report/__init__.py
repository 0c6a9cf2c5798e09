"""What a person looks at: one palette, overlay pictures, charts, label tables and a static HTML page."""
