"""The requests and answers of both rivals: the measured part of the original API."""

from typing import Literal

from pydantic import BaseModel, Field


class Submit(BaseModel):
    """A job."""

    prompt: str = Field(min_length=10, max_length=500)
    image_url: str
    image_size: str = "1280*720"
    num_frames: int = Field(default=81, ge=24, le=121)
    guidance_scale: float = Field(default=3.0, ge=1.0, le=20.0)
    infer_steps: int = Field(default=30, ge=20, le=100)
    seed: int = Field(default=0, ge=0, le=2_147_483_647)


class Submitted(BaseModel):
    """The answer to a submit."""

    requestId: str


class Ask(BaseModel):
    """A request for a job's status."""

    requestId: str


class Status(BaseModel):
    """A job's status."""

    status: Literal["InQueue", "InProgress", "Succeed", "Failed"]
    queue_position: int | None
    progress: float
    created_at: float
    updated_at: float
    video_path: str | None = None
    reason: str | None = None
