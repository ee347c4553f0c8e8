"""What every function behind a push subscription does with its envelope.

2xx acknowledges and says that the fact is stored; 503 refuses and brings the message again, and is
said only when our own store cannot be reached: a refused push slows the subscription for everybody.
What cannot be read is parked with its reason and acknowledged. 500 is a fault of ours, told in the log.
401 and 403 are said to a caller that is not the account which pushes, before anything is read.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from flask import Request, Response

from shared.bootstrap import engine
from shared.bus import Outgoing
from shared.core.message import PushEnvelope, PushMessage, Topic, open_envelope
from shared.engine import Engine
from shared.errors import RequestError, Unavailable, Unreadable
from shared.log import fault_of


def receive(
    request: Request, topic: Topic, handle: Callable[[Engine, PushMessage], None]
) -> Response:
    """Hands the message to `handle` and turns what happens into an answer."""
    try:
        made = engine(request.environ)
        admit(request, made)
        body = request.get_data(cache=False)
        envelope = PushEnvelope(message=PushMessage(data=body))
        try:
            envelope = open_envelope(body)
            handle(made, envelope.message)
        except Unreadable as error:
            message = envelope.message
            letter = Outgoing(topic, message.data, None, message.attributes)
            deliveries = envelope.delivery_attempt or 1
            park(made, letter, str(error), deliveries, message.published_at)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  # it comes again, and is parked if it always fails
            run = envelope.message.attributes.get("run")
            made.app.log.error("message.fault", topic=topic, run=run, **fault_of(error))
            return Response(type(error).__name__, status=500, mimetype="text/plain")
    except RequestError as error:
        return Response(str(error), status=error.status, mimetype="text/plain")
    except Unavailable as error:
        return Response(str(error), status=503, mimetype="text/plain")
    return Response(status=204)


def admit(request: Request, engine: Engine) -> None:
    """Lets in only who may push. Raises Unauthenticated, Forbidden, Unavailable."""
    if engine.app.callers is None:
        return
    # Cloud Run ends TLS in front of us: what is http here was https where the token was asked for.
    endpoint = f"https://{request.host}"
    try:
        engine.app.callers(request.headers.get("Authorization", ""), endpoint)
    except RequestError as error:
        engine.app.log.warning("push.refused", why=str(error), address=request.remote_addr)
        raise


def park(
    engine: Engine,
    letter: Outgoing,
    reason: str,
    deliveries: int,
    published_at: datetime | None,
) -> None:
    """Keeps the message for people, and tells them so."""
    engine.app.bus.park(letter, reason, deliveries, published_at)
    run = letter.attributes.get("run")
    engine.app.log.error("message.parked", topic=letter.topic, run=run, reason=reason)
