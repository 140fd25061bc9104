"""What Schemathesis cannot send by itself."""

import schemathesis


# Its bytes are Git's; each is sent as it is.
@schemathesis.serializer("application/x-git-upload-pack-request")
def upload_pack_request(ctx, value):
    return {"data": value.encode() if isinstance(value, str) else b""}
