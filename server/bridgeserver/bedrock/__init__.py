"""AWS Bedrock's InvokeModel for Anthropic's models: its requests, its streams and its signatures.

Nothing here does I/O but `signing.load_credentials` and `Credentials.refresh`, and only they need botocore.
"""
