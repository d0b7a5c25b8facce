"""Calls that are told what to do by XML documents: what Twilio's TwiML and Telnyx's TeXML have in common."""
