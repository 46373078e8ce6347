"""The API that clients of OpenAI speak."""

from __future__ import annotations

from kdcube.gateway.openapi.shapes import (
    COUNT,
    EVENTS,
    IDEMPOTENCY_KEY,
    OBJECTS,
    OPENED,
    TEXT,
    Json,
    array_of,
    body_of,
    content,
    nullable,
    object_of,
    operation,
    parameter,
    ref,
)
from kdcube.ingress.routes.openai_request import ChatCompletion

SCHEMAS: Json = {
    "OpenAIError": object_of(
        {"error": object_of({"message": TEXT, "type": TEXT, "param": nullable(TEXT), "code": TEXT})}
    ),
    "Model": object_of({"id": TEXT, "object": {"const": "model"}, "created": COUNT, "owned_by": TEXT}),
    "Models": object_of({"object": {"const": "list"}, "data": array_of(ref("Model"))}),
    "Completion": object_of(
        {
            "id": TEXT,
            "object": {"const": "chat.completion"},
            "created": COUNT,
            "model": TEXT,
            "choices": array_of(
                object_of(
                    {
                        "index": COUNT,
                        "message": object_of(
                            {"role": {"const": "assistant"}, "content": TEXT}, {"reasoning_content": TEXT}
                        ),
                        "finish_reason": {"enum": ["stop", "length"]},
                    }
                )
            ),
            "usage": object_of({"prompt_tokens": COUNT, "completion_tokens": COUNT, "total_tokens": COUNT}),
            "kdcube": object_of(
                {"turn_id": TEXT, "conversation_id": TEXT},
                {"citations": array_of({}), "followups": array_of({}), "steps": OBJECTS},
            ),
        }
    ),
}

PATHS: Json = {
    "/v1/models": {
        "get": operation(
            "The bundles that the caller may use, as models",
            content(ref("Models")),
            errors=(401, 403, 429),
            opens=True,
            shape="OpenAIError",
        )
    },
    "/v1/models/{model}": {
        "get": operation(
            "One bundle as a model",
            content(ref("Model")),
            parameters=(parameter("path", "model", TEXT, "The bundle's id"),),
            errors=(401, 403, 404, 429),
            opens=True,
            shape="OpenAIError",
        )
    },
    "/v1/chat/completions": {
        "post": operation(
            "A turn as a chat completion; its events with `stream`",
            {**content(ref("Completion")), **EVENTS},
            body=body_of(ChatCompletion),
            parameters=(IDEMPOTENCY_KEY,),
            errors=(*OPENED, 404, 409, 413, 500),
            opens=True,
            shape="OpenAIError",
        )
    },
}
