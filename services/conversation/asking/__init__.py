"""What people and their programs ask of conversations: the use cases behind the API."""
