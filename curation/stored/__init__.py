"""What several stages read of earlier ones beyond tables: pictures, features, cells, links."""
