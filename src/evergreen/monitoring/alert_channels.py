"""Where alerts go besides GitHub: whatever Apprise has a URL for, mail, Slack, Teams, PagerDuty and more."""

import hashlib
import logging
import re
from collections import Counter
from typing import Any
from urllib.parse import unquote, urlsplit

import apprise
from apprise.attachment.memory import AttachMemory

from evergreen.errors import EvergreenError
from evergreen.github import Deadline, RetryPolicy
from evergreen.logs import redact
from evergreen.monitoring.alert_text import PLOT, AlertText

_INLINE_PLOT = re.compile(r'<p><img src="cid:[^>]*></p>\n?')


class ChannelError(EvergreenError):
    """A channel did not take a message; the message names it without its secrets, the reason and the remedy."""


class Channel:
    """One Apprise URL.

    Args:
        service: what Apprise made of the URL.
        url: with its secrets, to keep them out of messages.
        key: identifies it in the state, without its secrets.
        name: for people, likewise.
    """

    def __init__(self, service: Any, url: str, key: str, name: str) -> None:
        self.service = service
        self.url = url
        self.key = key
        self.name = name

    def send(self, message: AlertText, plot: bytes | None, deadline: Deadline) -> None:
        """Deliver a message; Apprise tries again by itself.

        Args:
            message: HTML goes where it is read, text elsewhere.
            plot: a PNG; inline in a mail, attached where there are attachments.
            deadline: when to give up.

        Raises:
            ChannelError: when it was not delivered.
        """
        if not deadline.remaining:
            raise ChannelError(f"{self.name}: no time was left. Look at the channels before it")
        takes_html = self.service.resolve_format("html") == "html"
        shows_inline = hasattr(self.service, "inline")
        html = message.html if shows_inline and plot else _INLINE_PLOT.sub("", message.html)
        if shows_inline:
            self.service.inline = True
        sender = apprise.Apprise(asset=self.service.asset)
        sender.add(self.service)
        attach = None
        if plot and self.service.attachment_support:
            attach = apprise.AppriseAttachment()
            attach.add(AttachMemory(content=plot, name=PLOT, mimetype="image/png"))
        try:
            result = sender.notify(
                html if takes_html else message.text,
                title=message.title,
                body_format="html" if takes_html else "text",
                notify_type="success" if message.event == "closed" else "warning",
                attach=attach,
                timeout=deadline.remaining,
            )
        except Exception as error:  # a plugin's own fault must not keep the others from their messages
            raise ChannelError(f"{self.name}: {type(error).__name__}. Check the URL") from error
        if not result:
            lines = [entry.message for entry in result.logs() if "trying again" not in entry.message]
            reason = self._hide_secrets(lines[-1]).rstrip(".") if lines else f"not delivered ({result.status.name})"
            raise ChannelError(f"{self.name}: {reason}. Check host, user, password or token in the URL")

    def _hide_secrets(self, text: str) -> str:
        shown = self.service.url(privacy=True)
        for part in re.split(r"[/:@?&=,]+", self.url):
            for secret in (part, unquote(part)):
                if len(secret) >= 5 and secret not in shown:
                    text = text.replace(secret, "***")
        return redact(text)


def load_channels(urls: list[str], policy: RetryPolicy) -> tuple[list[Channel], list[str]]:
    """Make the channels of `EVERGREEN_ALERT_URLS`.

    Returns:
        The channels, and a problem with remedy for each URL that is none.
    """
    # What they log may hold tokens; results carry the reasons, from which we take the secrets out.
    apprise_log = logging.getLogger("apprise")
    apprise_log.setLevel(logging.WARNING)
    apprise_log.propagate = False
    apprise_log.handlers = [logging.NullHandler()]
    logging.getLogger("urllib3").setLevel(logging.INFO)
    asset = apprise.AppriseAsset(
        app_id="Evergreen",
        app_desc="Evergreen",
        app_url="",
        async_mode=False,
        default_service_retry=policy.tries - 1,
        default_service_wait=policy.first_wait,
    )
    channels, problems, keys = [], [], Counter[str]()
    for number, url in enumerate(urls, 1):
        service = apprise.Apprise.instantiate(url, asset=asset)
        scheme = url.partition(":")[0] if "://" in url else "no scheme"
        if service is None:
            problems.append(
                f"EVERGREEN_ALERT_URLS: number {number} ({scheme}) is not a URL that Apprise takes. "
                "Write it as https://appriseit.com/services lists it"
            )
            continue
        shown = service.url(privacy=True).partition("?")[0]
        key = hashlib.sha256(shown.encode()).hexdigest()[:12]
        keys[key] += 1
        host = urlsplit(shown).netloc.rpartition("@")[2]
        name = f"channel {number} ({scheme}://{host})"
        channels.append(Channel(service, url, key if keys[key] == 1 else f"{key}-{keys[key]}", name))
    return channels, problems
