"""DeepL's lists of languages, of /v2 and /v3: what can be translated, and what a glossary may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from app.deepl_schemas import (
    DeepLFeature,
    DeepLLanguage,
    DeepLLanguagePair,
    DeepLLanguagePairs,
    DeepLResource,
    DeepLV3Language,
)
from app.dependencies import ServiceDependency
from app.routes import deepl_parameters as parameters
from app.routes.deepl import ERRORS
from app.routes.deepl_parameters import bad_request

_VARIANTS: Mapping[str, Mapping[str, str]] = {
    "en": {"en-GB": "English (British)", "en-US": "English (American)"},
    "pt": {"pt-BR": "Portuguese (Brazilian)", "pt-PT": "Portuguese (European)"},
}
"""Regional targets that DeepL's clients know beside or instead of the language; here they are all the same."""
_FEATURES: Mapping[str, tuple[str, ...]] = {
    "translate_text": ("auto_detection", "glossary", "tag_handling"),
    "translate_document": ("auto_detection", "glossary"),
    "glossary": (),
    "voice": (),
    "write": (),
    "style_rules": (),
    "translation_memory": (),
}
"""DeepL's resources, and the features that every language has there."""
_RESOURCES = ("translate_text", "translate_document", "glossary")
"""Those of them that exist here; the others have no languages."""

router = APIRouter(tags=["DeepL"])


def _documented(name: str, allowed: tuple[str, ...], is_required: bool) -> dict[str, Any]:
    """Describe a parameter that we read ourselves."""
    schema = {"type": "string", "enum": list(allowed)}
    return {"parameters": [{"name": name, "in": "query", "required": is_required, "schema": schema}]}


@router.get(
    "/v2/languages",
    responses={status: ERRORS[status] for status in (400, 403, 429, 503)},
    openapi_extra=_documented("type", ("source", "target"), is_required=False),
    response_model_exclude_none=True,
)
@router.post("/v2/languages", include_in_schema=False, response_model_exclude_none=True)
async def languages(request: Request, service: ServiceDependency) -> list[DeepLLanguage]:
    """List the languages that texts may be in (`type=source`, as without it) or be translated to (`type=target`)."""
    values = await parameters.read_values(request, service.settings)
    await service.access.admit(request, 0, values)
    kind = parameters.choice(values, "type", ("source", "target"))
    service.registry.require_ready()
    found: list[DeepLLanguage] = []
    for entry in service.registry.languages():
        if kind == "target" and not service.registry.is_target(entry.code):
            continue
        if kind != "target" and not service.registry.targets(entry.code):
            continue
        if kind == "target":
            names = _VARIANTS.get(entry.code, {entry.code: entry.name})
            found += [
                DeepLLanguage(language=code.upper(), name=names[code], supports_formality=False) for code in names
            ]
        else:
            found.append(DeepLLanguage(language=entry.code.upper(), name=entry.name))
    return sorted(found, key=lambda each: each.language)


@router.get(
    "/v3/languages",
    responses={status: ERRORS[status] for status in (400, 403, 429, 503)},
    openapi_extra=_documented("resource", tuple(_FEATURES), is_required=True),
)
async def resource_languages(request: Request, service: ServiceDependency) -> list[DeepLV3Language]:
    """List the languages that a part of the service has, and what it can do with them."""
    values = await parameters.read_values(request, service.settings)
    await service.access.admit(request, 0, values)
    if "product" in values and "resource" not in values:
        raise bad_request("The parameter 'product' was renamed to 'resource'.")
    parameters.required(values, "resource")
    resource = parameters.choice(values, "resource", tuple(_FEATURES))
    service.registry.require_ready()
    if resource not in _RESOURCES:
        return []
    features = {name: {"status": "stable"} for name in _FEATURES[resource]}
    found: list[DeepLV3Language] = []
    for entry in service.registry.languages():
        is_source, is_target = bool(service.registry.targets(entry.code)), service.registry.is_target(entry.code)
        variants = {} if resource == "glossary" or not is_target else _VARIANTS.get(entry.code, {})
        for code, name in {entry.code: entry.name, **variants}.items():
            found.append(
                DeepLV3Language(
                    lang=code,
                    name=name,
                    usable_as_source=is_source and code == entry.code,
                    usable_as_target=is_target,
                    features=features,
                )
            )
    return sorted(found, key=lambda each: each.lang)


@router.get(
    "/v3/languages/resources",
    responses={status: ERRORS[status] for status in (403, 429)},
    response_model_exclude_none=True,
)
async def resources(request: Request, service: ServiceDependency) -> list[DeepLResource]:
    """List the parts of the service, and what their languages may be able to do."""
    await service.access.admit(request)
    return [DeepLResource(name=name, features=[_feature(each) for each in _FEATURES[name]]) for name in _RESOURCES]


@router.get("/v2/glossary-language-pairs", responses={status: ERRORS[status] for status in (403, 429, 503)})
async def glossary_language_pairs(request: Request, service: ServiceDependency) -> DeepLLanguagePairs:
    """List the pairs of languages that a glossary may have."""
    await service.access.admit(request)
    registry = service.registry
    registry.require_ready()
    return DeepLLanguagePairs(
        supported_languages=[
            DeepLLanguagePair(source_lang=entry.code.lower(), target_lang=target.lower())
            for entry in registry.languages()
            for target in registry.targets(entry.code)
            if target != entry.code
        ]
    )


def _feature(name: str) -> DeepLFeature:
    """Describe a feature; only detecting a language needs no support of the target."""
    return DeepLFeature(
        name=name, needs_source_support=True, needs_target_support=None if name == "auto_detection" else True
    )
