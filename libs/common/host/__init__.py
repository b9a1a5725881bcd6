"""The service host: steppers without I/O (core, relay), what a service is (service), and the asyncio driver around them."""
